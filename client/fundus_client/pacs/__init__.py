"""A hospital's archive: query, retrieve, receive, send. Everything here needs the extra `pacs`."""
