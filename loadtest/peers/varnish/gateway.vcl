vcl 4.1;
# Varnish as a gateway. What a setup adds is in the other files of this folder.

import std;
import vsthrottle;
import vtc;

@BACKEND@

@TRUSTED@

sub vcl_init {
    # Listening begins before the writer of lines has found us, for which it looks twice a second; the first requests wait.
    vtc.sleep(1s);
}

sub vcl_recv {
    # An id that no other request and no other start of Varnish has; a random UUID needs a module that is not packaged.
    set req.http.X-Request-Id = std.time2integer(now, 0) + "-" + req.xid;
    @CLIENT@

    if (req.url !~ "^/items(\?|$)") {
        return (synth(404));
    }

    if (req.http.X-API-Key != "@KEY@") {
        return (synth(401));
    }
    # For the line; records of requests that were refused have no consumer.
    std.log("consumer:loadtest");

    # Limit per client address: token buckets in a tree, 16 locks. After the key, so that refused callers are not counted.
    if (vsthrottle.is_denied(req.http.X-Client, @LIMIT@)) {
        return (synth(429));
    }

    unset req.http.X-API-Key;    # the key is no business of the upstream
    unset req.http.X-Client;
    set req.http.X-Consumer = "loadtest";
    set req.http.X-Forwarded-Proto = "http";
    set req.http.X-Forwarded-Host = req.http.Host;
    @ANSWER@
}

@FRESHNESS@
sub vcl_backend_response {
    # For the line, see vcl_deliver.
    set beresp.http.X-Instance = "@HOST@:@PORT@";
}

sub vcl_deliver {
    if (obj.hits == 0) {
        std.log("instance:" + resp.http.X-Instance);
    }
    unset resp.http.X-Instance;
    unset resp.http.X-Varnish;
    unset resp.http.Via;
    set resp.http.X-Request-Id = req.http.X-Request-Id;
    return (deliver);
}

sub vcl_synth {
    set resp.http.X-Request-Id = req.http.X-Request-Id;
    set resp.http.Content-Type = "application/problem+json";
    if (resp.status == 401) {
        set resp.http.WWW-Authenticate = {"ApiKey realm="items""};
    }
    set resp.body = {"{"status":"} + resp.status + {"}"};
    return (deliver);
}
