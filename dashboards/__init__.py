"""What people look at: Grafana's dashboard as code, and the live page of the control room."""
