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

            /// The reason with this number; of the others, which there are none of, the last one.
            #[inline(always)]
            pub const fn from_number(number: u32) -> Self {
                $(if number == Self::$variant as u32 {
                    return Self::$variant;
                })+
                Self::InconsistentMaps
            }

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
        "The packet, with the headers that its mode puts around it, is larger than the MTU of the next hop. The sender is \
         told the MTU that fits (ICMP), at most so often a second."
    HopLimitExceeded "hop-limit-exceeded"
        "The packet's TTL or hop limit is used up."
    TruncatedPacket "truncated-packet"
        "The packet for a listener, or the reply, is shorter than its IP header says."
    TruncatedHeader "truncated-header"
        "The packet for a listener, or the reply, ends inside its TCP, UDP or ICMP header."
    FragmentWithoutFirst "fragment-without-first"
        "A fragment for a VIP came before the first fragment of its datagram, or without it: only the first one says which \
         listener it is for. The sender has to send the datagram again."
    UnknownFlow "unknown-flow"
        "An ICMP error about a flow that `full_nat` does not remember."
    SourcePortsExhausted "source-ports-exhausted"
        "No source address and port was free for a new flow in `full_nat`: give `source_addresses` another address."
    FlowTableFull "flow-table-full"
        "The table of flows in `full_nat` is full: raise `max_flows`."
    NoHeadroom "no-headroom"
        "The network driver left no room before the packet to put a header around it."
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
