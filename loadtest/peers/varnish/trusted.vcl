acl trusted {
    "127.0.0.0"/8;
}
