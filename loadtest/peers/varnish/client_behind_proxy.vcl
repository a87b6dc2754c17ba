# The client is who the trusted proxy in front says it is. Varnish has already appended that proxy's own address.
set req.http.X-Client = client.ip;
if (client.ip ~ trusted && req.http.X-Forwarded-For ~ ",") {
    set req.http.X-Client = regsub(req.http.X-Forwarded-For, "^(?:.*,)?\s*([^,\s]+)\s*,[^,]*$", "\1");
}
std.log("client:" + req.http.X-Client);
