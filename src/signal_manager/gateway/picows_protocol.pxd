# Compiled without C types: picows declares no C class for its protocol.
