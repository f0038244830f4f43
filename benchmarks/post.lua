-- What wrk sends: the files that BODIES names, a line each, in turns, as bodies of a POST of the type CONTENT_TYPE.
local requests, turn = {}, 0

function init()
  wrk.headers["Content-Type"] = os.getenv("CONTENT_TYPE")
  for name in os.getenv("BODIES"):gmatch("[^\n]+") do
    local file = assert(io.open(name, "rb"))
    requests[#requests + 1] = wrk.format("POST", nil, nil, file:read("*a"))
    file:close()
  end
end

function request()
  turn = turn % #requests + 1
  return requests[turn]
end
