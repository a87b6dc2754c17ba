sub vcl_backend_response {
    # The hour holds whatever the upstream says.
    set beresp.ttl = 1h;
}
