"""The plain path of TUN and TAP ports in C."""
