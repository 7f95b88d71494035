package netstack

// Stats is a snapshot of a stack. Counters begin with the stack.
type Stats struct {
	TCPConns     int // open connections
	TCPListeners int
	UDPSockets   int
	// Retransmits is the number of TCP segments that were sent again.
	Retransmits uint64
	// SocketDrops is the number of datagrams and connection requests that were
	// dropped because the buffer of their socket, or the queue of their listener,
	// was full.
	SocketDrops uint64
}

// Stats returns the present state of the stack.
func (s *Stack) Stats() Stats {
	tcp, udp := s.gvisor.Stats().TCP, s.gvisor.Stats().UDP
	st := Stats{
		Retransmits: tcp.Retransmits.Value() + s.resent.Load(),
		SocketDrops: udp.ReceiveBufferErrors.Value() + tcp.ListenOverflowSynDrop.Value() + tcp.ListenOverflowAckDrop.Value(),
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for socket := range s.sockets {
		switch socket.(type) {
		case *tcpConn:
			st.TCPConns++
		case *listener:
			st.TCPListeners++
		case *udpConn:
			st.UDPSockets++
		}
	}
	return st
}
