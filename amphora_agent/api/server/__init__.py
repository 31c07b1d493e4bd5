"""The gunicorn worker of the API: TLS, HTTP, bodies and answers under deadlines."""
