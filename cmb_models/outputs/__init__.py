"""Results of `cmb detect` beyond the tables: files for viewers, PACS and statistics."""
