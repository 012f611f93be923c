//! The theory: everything numeric is a function of `(x, sigma)`. Knows tensors and sigma; never the inside of a
//! network, files or HTTP.
