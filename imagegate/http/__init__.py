"""What both web apps share: who may call, how a call is answered, and the server."""
