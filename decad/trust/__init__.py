"""Who is a member of the run and how that is proved: the run's secret, certificates, identities, admission lists."""
