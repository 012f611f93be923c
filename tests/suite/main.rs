//! Black-box tests, in one binary: linking is slow.

mod data;
mod networks;
mod parity;
