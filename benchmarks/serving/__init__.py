"""How long a scan takes, served and in process, compared with a plain implementation and with other runtimes."""
