//! The agent of clb: validates the configuration, loads and attaches the XDP program, keeps its maps true.
pub mod slots;
