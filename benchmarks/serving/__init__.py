"""How long a scan takes, served and in process, beside what people write by hand and beside other runtimes."""
