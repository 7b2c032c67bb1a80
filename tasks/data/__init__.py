"""Tools that build the data shipped with the package."""
