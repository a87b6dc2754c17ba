# Run by the shell that then becomes HAProxy: collects the lines, and is HAProxy's child, so its CPU time counts.
# setpriv: it does not outlive HAProxy. It is there before HAProxy looks for it.
setpriv --pdeathsig KILL @SOCAT@ -u -b 262144 UNIX-LISTEN:@SOCKET@,accept-timeout=30 OPEN:@LINES@,append,creat &
for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do [ -S @SOCKET@ ] && break; sleep 0.05; done
