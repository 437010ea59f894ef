//! From kernel to a served root.
