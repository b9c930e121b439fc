//! Plain f64 versions of every operator, for anyone to read and for the tests to compare with.
