"""The methods, one file each. `tablefold.method.all_methods()` finds them by itself."""
