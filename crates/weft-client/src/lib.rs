//! Client of the REST API with mutual TLS
