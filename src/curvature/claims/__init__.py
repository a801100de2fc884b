"""A paper's claims as data, the statistics that decide them, verdicts and reports. Free of torch."""
