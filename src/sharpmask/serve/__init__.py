"""A server for people and label tools: page, HTTP interface, Label Studio, X-AnyLabeling."""
