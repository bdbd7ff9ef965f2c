"""The correlation models that come with the package, one file each."""
