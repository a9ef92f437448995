-- For Orthanc: send each complete study to the bridge, once: not when the bridge's results make it stable again.
function OnStableStudy(studyId, tags, metadata, origin)
   if not HasResult(studyId) then
      local job = { Resources = { studyId }, Synchronous = false }
      RestApiPost("/modalities/cmb_bridge/store", DumpJson(job, true))
   end
end

function HasResult(studyId)
   for _, series in ipairs(ParseJson(RestApiGet("/studies/" .. studyId .. "/series"))) do
      if series["MainDicomTags"]["Manufacturer"] == "cmb-models" then
         return true
      end
   end
   return false
end
