"""DomainBed's protocol (Gulrajani and Lopez-Paz, ICLR 2021): seeds, hyper-parameters, records, selection, tables."""
