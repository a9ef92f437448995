"""Detection in cohorts: thousands of scans by any number of servers, resumable, with results in partitions."""
