//! Command line and platform become one validated configuration; pure.
