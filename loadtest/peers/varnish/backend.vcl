backend service {
    .host = "@HOST@";
    .port = "@PORT@";
    .connect_timeout = 5s;
    .first_byte_timeout = 60s;
    .between_bytes_timeout = 60s;
}
