vcl 4.1;
# Varnish as a plain reverse proxy: everything is passed.

@BACKEND@

sub vcl_recv {
    return (pass);
}
