"""Results of `cmb detect` beyond the tables: the extent of detections, for viewers and statistics."""
