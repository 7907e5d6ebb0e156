//! Token shards and the order in which they are read: a pure function of (plan, seed, index).
