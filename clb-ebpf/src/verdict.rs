//! What becomes of a packet that is not dropped.

/// The end of a packet's way.
#[derive(Clone, Copy)]
#[must_use]
pub enum Verdict {
    /// To the host's own network stack, as it came.
    Pass,
    /// Back out of the interface it came in by.
    Transmit,
    /// Out of another interface.
    Redirect {
        /// That interface's index.
        interface: u32,
    },
}
