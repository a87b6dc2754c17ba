set req.http.X-Client = client.ip;
std.log("client:" + req.http.X-Client);
# Varnish has appended the address to what the client claims, which is not believed.
set req.http.X-Forwarded-For = req.http.X-Client;
