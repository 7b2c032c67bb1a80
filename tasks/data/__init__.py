"""Images for tasks, and the tool that builds the data shipped with the package."""
