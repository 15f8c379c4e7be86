//! Why a packet for a listener, or a backend's reply, was not sent. Status, metrics and docs come from this table.

macro_rules! drop_reasons {
    ($($variant:ident $name:literal $help:literal)+) => {
        /// Why a packet was dropped. The numbers index the verdict counters.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum DropReason {
            $(#[doc = $help] $variant,)+
        }

        impl DropReason {
            /// All reasons, in the order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The name in status and metrics.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }

            /// What happened, for a person.
            pub const fn help(self) -> &'static str {
                match self {
                    $(Self::$variant => $help,)+
                }
            }
        }
    };
}

drop_reasons! {
    NoBackend "no-backend"
        "The listener has no backend that takes connections: none is bound, or all weights are 0."
    NextHopUnresolved "next-hop-unresolved"
        "The backend's next hop has no MAC address: no route, or the neighbour does not answer."
    ClientUnresolved "client-unresolved"
        "A reply's way to the client is not known: no route, or a client on the same link does not answer."
    PacketTooBig "packet-too-big"
        "The packet is larger than the MTU of the next hop."
    HopLimitExceeded "hop-limit-exceeded"
        "The packet's TTL or hop limit is used up."
    Fragment "fragment"
        "The packet is the first fragment of a datagram for a listener; the others carry no port to find it by."
    MalformedHeader "malformed-header"
        "The packet for a listener ends inside its TCP or UDP header."
    InconsistentMaps "inconsistent-maps"
        "A slot or a backend lies outside its map. This is a defect of clb: please report it."
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_positions_and_names_are_unique() {
        for (position, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, position);
            let same = DropReason::ALL.iter().filter(|other| other.name() == reason.name()).count();
            assert_eq!(same, 1, "{} stands twice", reason.name());
        }
    }
}
