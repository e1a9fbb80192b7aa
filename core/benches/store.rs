//! What a record costs in the log.
fn main() {}
