-- Requests that are not all the same: over routes, keys or client addresses.
-- Arguments: the kind, how many there are, where to begin (addresses in turn), a file of keys.
-- Everything that can be put together beforehand is; the rest is one string per request.
local kind, count, at, ready, before, after

function init(args)
  kind, count, at = args[1], tonumber(args[2]), tonumber(args[3])
  math.randomseed(tonumber(args[4]))
  ready = {}
  if kind == "one" then
    ready[1] = wrk.format()
  elseif kind == "routes" then
    -- The last one is /items, the others /r/0, /r/1 and so on.
    for i = 1, count - 1 do ready[i] = wrk.format("GET", "/r/" .. (i - 1) .. "/items") end
    ready[count] = wrk.format("GET", "/items")
  elseif kind == "keys" then
    for key in io.lines(args[5]) do
      wrk.headers["X-API-Key"] = key
      ready[#ready + 1] = wrk.format()
    end
    assert(#ready == count, "the file has " .. #ready .. " keys")
  else
    wrk.headers["X-Forwarded-For"] = "@"
    before, after = wrk.format():match("^(.*)@(.*)$")
  end
end

function address(i)
  return string.format("%s10.%d.%d.%d%s", before, math.floor(i / 65536), math.floor(i / 256) % 256, i % 256, after)
end

function request()
  if kind == "addresses" then return address(math.random(0, count - 1)) end
  if kind == "addresses-in-turn" then
    at = at + 1
    return address((at - 1) % count)
  end
  return ready[math.random(#ready)]
end
