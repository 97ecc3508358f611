"""Documents -> token store, on local processes or Apache Beam."""
