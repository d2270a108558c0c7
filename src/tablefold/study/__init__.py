"""Studies: many runs, their results side by side, and a page that shows them."""
