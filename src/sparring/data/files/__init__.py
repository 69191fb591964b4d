"""Images in folders and tables: which files, what they show, what is left out of them."""
