"""The frameworks whose models `fold` knows, one file each; see `tablefold.folding.host`."""
