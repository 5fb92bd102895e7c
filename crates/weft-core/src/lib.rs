//! Pure state machines of the control plane: node leases, dispatch, retry, circuit breakers
