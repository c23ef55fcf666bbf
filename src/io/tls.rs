//! TLS configuration: roots and host names.
