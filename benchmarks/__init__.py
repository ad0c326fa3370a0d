"""Speed measured side by side; the folders beside hold results in JSON."""
