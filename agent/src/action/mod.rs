//! What the agent does to sockets: intent, policy, methods, audit.
