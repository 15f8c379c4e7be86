//! What becomes of a packet that is not dropped.

use clb_common::{DropReason, Stage};

/// What the stages come to.
pub type Outcome = Result<Verdict, DropReason>;

/// The end of a packet's way, or of a program's part of it.
#[derive(Clone, Copy)]
#[must_use]
pub enum Verdict {
    /// To the host's own network stack, as it came.
    Pass,
    /// An answer of clb's own, back to the sender.
    Answer,
    /// Back out of the interface that it came in by.
    Transmit,
    /// Out of another interface, which the kernel was told. It is no part of this: what only some verdicts hold the compiler leaves
    /// unset in the others, and the verifier refuses a program that copies it all the same.
    Redirect,
    /// Not known yet: another program has to look at the packet, which is as it came.
    Continue(Stage),
}
