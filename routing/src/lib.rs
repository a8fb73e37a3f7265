//! Which routes exist and which win: it will own the BGP speaker, the RIB, policy, VRFs, EVPN and the plan of the FIB.
//!
//! Empty until then. It will know no socket and no kernel, nor where hosts stand: that is topology's, and only the
//! node translates between the two.
