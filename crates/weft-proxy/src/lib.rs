//! Published ports of services: a proxy on every node, and mutual TLS between nodes.
