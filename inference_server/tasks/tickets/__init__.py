"""Tickets of the DSS dialect: their records, files and log, who offers services, and who serves which ticket."""
