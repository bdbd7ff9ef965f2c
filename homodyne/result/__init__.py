"""What a fit returns: the record, its NetCDF file, the summary and the verdict in words, and several side by side."""
